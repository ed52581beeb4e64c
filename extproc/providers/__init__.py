"""What each API looks like on the wire: requests in, usage out. Pure; one module an API."""
