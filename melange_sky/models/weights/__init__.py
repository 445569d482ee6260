"""How the weights of a checkpoint are kept: the format of every module, and the bytes that follow."""
