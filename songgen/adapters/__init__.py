"""Adapters: small weights next to a base model, attached by peft, and their folders."""
