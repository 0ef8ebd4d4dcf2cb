"""Weight-sharing networks in torch: elastic layers, supernets, extraction, evaluation, export."""
