//! swarmctl
fn main() {
    divan::main();
}
