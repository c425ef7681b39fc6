//! CEL expressions: compiled once, evaluated on three-valued facts.
