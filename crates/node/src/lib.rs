//! The pure state machine of one node of a tree.
