"""What is fitted: encoders, classifiers, graphs, and how they are fitted."""
