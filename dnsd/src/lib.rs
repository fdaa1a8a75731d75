//! dnsd
pub mod answer;
pub mod cache;
pub mod fast;
pub mod forward;
pub mod full;
pub mod limits;
pub mod listeners;
pub mod load;
pub mod name;
pub mod packet;
pub mod respond;
pub mod upstream;
pub mod zones;
