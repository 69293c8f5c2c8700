"""Questions to a server of models that speaks OpenAI's chat interface: prompts, requests, retries, budgets, replies."""
