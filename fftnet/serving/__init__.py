"""An HTTP server in OpenAI's shape (extra ``serve``): one engine steps the texts of all users together."""
