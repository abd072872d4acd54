"""Adapters: small weights beside a base model, attached by peft, and their folders."""
