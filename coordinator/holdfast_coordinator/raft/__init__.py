"""The replicated log: pysyncobj 0.3.17, shielded. The only package that may import it."""
