"""The steps for programs and agents: endpoints that `gradio_client`, plain HTTP and MCP clients call."""
