"""The whole way, from blocks to a delivered network, on data that scikit-learn carries."""
