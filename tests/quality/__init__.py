"""How well the models find what they are for, on labelled data, by its publishers' protocols."""
