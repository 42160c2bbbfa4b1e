//! The log from record to descriptor: formats against lines that HAProxy wrote, sinks that take lines, and sinks that don't.
