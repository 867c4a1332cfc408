"""The same network with its units renamed: what may be reordered, finding the order that fits another network, and how far that goes.

A network is a dict of *pieces* (weights as [out, in], biases and norm weights as [out]); a Spec names the *space* of each axis;
*maps* give each space an order. Everything here works on pieces, so a transformer and a small MLP go the same way.
"""
