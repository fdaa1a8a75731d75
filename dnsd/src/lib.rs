//! dnsd
pub mod answer;
pub mod fast;
pub mod full;
pub mod load;
pub mod name;
pub mod packet;
pub mod respond;
pub mod zones;
