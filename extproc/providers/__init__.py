"""What each provider's API looks like on the wire: requests in, usage out. Pure; one module an API.
API, no base class.
"""
