//! Proof of life: a page of counters that the workers write and the agent reads.
