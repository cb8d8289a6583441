//! meshnet
fn main() {
    divan::main();
}
