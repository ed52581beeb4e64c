"""What each provider's API looks like on the wire: requests in, usage out. Pure; one module per API, no base class."""
