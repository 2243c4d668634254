"""What `qanat dev` adds to the stack: one request through it, and a witness at every hop."""
