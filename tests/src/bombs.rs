//! Components that are small to send and dear to compile.
//!
//! Each is one function whose loops stand in one another and whose variables all change in the innermost: the compiler
//! keeps a value of each variable for each loop. So `loops` times `variables` values cost memory, and what it looks for
//! among them costs time.

/// Compiling it takes many seconds of any machine, and a few hundred MiB.
pub fn of_time() -> Vec<u8> {
    component(&nested(400, 400))
}

/// Compiling it wants more memory than a node may be told to give, within a second or so.
pub fn of_memory() -> Vec<u8> {
    component(&nested(10_000, 10_000))
}

/// Loops in one another, and in the innermost each variable is counted up.
fn nested(loops: u32, variables: u32) -> Vec<u8> {
    let mut body = [vec![1], number(variables), vec![0x7f]].concat(); // So many variables of type i32.
    for _ in 0..loops {
        body.extend([0x03, 0x40]); // loop
    }
    for variable in 1..=variables {
        body.push(0x20); // local.get
        body.extend(number(variable));
        body.extend([0x41, 1, 0x6a, 0x21]); // i32.const 1, i32.add, local.set
        body.extend(number(variable));
    }
    for _ in 0..loops {
        body.extend([0x20, 0, 0x0d, 0, 0x0b]); // local.get 0, br_if 0, end
    }
    body.push(0x0b);
    body
}

/// A component that is nothing but a module with this function. It answers no requests, which is found when it has been
/// compiled.
fn component(body: &[u8]) -> Vec<u8> {
    let code = [vec![1], number(body.len() as u32), body.to_vec()].concat();
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, &[1, 0x60, 1, 0x7f, 0]), // The type of a function that takes an i32.
        section(3, &[1, 0]),
        section(10, &code),
    ]
    .concat();
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, &module)].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [vec![id], number(content.len() as u32), content.to_vec()].concat()
}

/// LEB128.
fn number(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
