"""The sidecar: Envoy's external processor. Imports only pure modules of `ledger`."""
