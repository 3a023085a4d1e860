"""HTTP server with OpenAI's API (extra ``serve``): one engine decodes the replies of all users together."""
