"""Training and evaluating many data owners at once; every engine gives what the reference engine gives."""
