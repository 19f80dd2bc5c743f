//! What instructions do, a file for each family, and the tables from instruction to handler.
//!
//! Every op is a type that implements [`crate::op::Exec`] (or a handler function, for those that
//! end a block); [`crate::select`] picks the type for a decoded instruction.

pub mod alu;
pub mod atomic;
pub mod bits;
pub mod branch;
pub mod decimal;
pub mod mov;
pub mod muldiv;
pub mod shift;
pub mod simd;
pub mod stack;
pub mod string;
pub mod system;
