"""`songgen try`: train on one clip until it is learned by heart, to show that a configuration learns at all."""
