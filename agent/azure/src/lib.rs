//! Azure collectors, through Resource Graph.
