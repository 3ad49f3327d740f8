"""bnfast.jax: a package, so that file names may repeat. Skipped where JAX or its calls are not."""
