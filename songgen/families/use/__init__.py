"""Using models of any family: opening them with adapters, generating songs, and exporting."""
