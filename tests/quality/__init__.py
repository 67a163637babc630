"""How well the models find what they are for, by the labelled sets' protocols; how honest p is."""
