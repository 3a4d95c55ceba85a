"""What is measured: the loss L(w) of any model on any data, as a function of named weights."""
