"""Documents computed once: keys and values that do not depend on query or neighbours."""
