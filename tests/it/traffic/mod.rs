//! Scenarios of traffic.

mod whatever_happens_the_engine_keeps_its_promises;
mod world;
