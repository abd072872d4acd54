"""A trained model on the Hugging Face Hub, with its model card."""
