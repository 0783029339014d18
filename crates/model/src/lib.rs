//! Model families, each in a file that reads like its paper.
