"""Ways in and out: scikit-learn, SciPy, pytorch-metric-learning, vector indices. Import the module you need."""
