//! Datasets: tokenizing text in, verified sequences out.
