"""The ``gradtx`` command: thin modules that parse, call one function of the library and print one result."""
