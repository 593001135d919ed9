//! The matrix unit of Intel's processors, AMX: whether it may be used, and one block of a product on its tiles.
//!
//! A tile is a register of 16 rows of 64 bytes; one instruction multiplies two tiles of bf16 numbers and adds to a third of f32. Linux lends the tiles to
//! a process that asks, and keeps them for each thread. The instructions have no stable intrinsics, so they stand here as assembly. What a block is, and the
//! same block in plain Rust, which judges this one, are in [`super::unit`].
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1 chapter 18; Linux, Documentation/arch/x86/xstate.rst.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub use unit::{Tiles, usable};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod unit {
    use std::arch::asm;
    use std::arch::x86_64::__cpuid_count;
    use std::cell::Cell;
    use std::marker::PhantomData;
    use std::sync::OnceLock;

    use crate::kernel::vector;
    use crate::unit::{SIDE, STEP};

    /// Whether this process may use AMX; asks the system once.
    ///
    /// # Errors
    /// Why it may not, in the words of `AMX is ...`.
    pub fn usable() -> Result<(), &'static str> {
        static USABLE: OnceLock<Result<(), &'static str>> = OnceLock::new();
        *USABLE.get_or_init(|| {
            if !in_processor() {
                return Err("not in this processor");
            }
            if !kept_by_system() {
                return Err("not switched on by the system");
            }
            if permission() { Ok(()) } else { Err("refused by the system") }
        })
    }

    /// Whether the processor has tiles and products of bf16 on them, and the vectors that what feeds them is compiled for.
    fn in_processor() -> bool {
        const TILES: u32 = 1 << 24;
        const BF16: u32 = 1 << 22;
        if __cpuid_count(0, 0).eax < 7 {
            return false;
        }
        let features = __cpuid_count(7, 0).edx;
        features & TILES != 0 && features & BF16 != 0 && vector::has_avx512()
    }

    /// Whether the system saves both parts of the tiles' state.
    fn kept_by_system() -> bool {
        const OSXSAVE: u32 = 1 << 27;
        const STATE: u32 = 1 << 17 | 1 << 18;
        if __cpuid_count(1, 0).ecx & OSXSAVE == 0 {
            return false;
        }
        let low: u32;
        // SAFETY: the instruction is there where OSXSAVE is set; it reads register 0, which always exists, into eax and edx
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
        low & STATE == STATE
    }

    /// Asks Linux for the tiles: `arch_prctl(ARCH_REQ_XCOMP_PERM, 18)`. It holds for all threads of the process.
    fn permission() -> bool {
        const ARCH_PRCTL: i64 = 158;
        let result: i64;
        // SAFETY: a system call that takes two numbers and touches no memory of ours; the kernel changes rax, rcx and r11 alone
        unsafe {
            asm!("syscall", inout("rax") ARCH_PRCTL => result, in("rdi") 0x1023, in("rsi") 18, out("rcx") _, out("r11") _, options(nostack));
        }
        result == 0
    }

    /// The layout of the tiles as `ldtilecfg` reads it: palette 1; bytes a row and rows of each.
    #[repr(C, align(64))]
    struct Layout {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }

    const LAYOUT: Layout = {
        let mut layout = Layout { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut tile = 0;
        while tile < 8 {
            (layout.row_bytes[tile], layout.rows[tile]) = (64, 16);
            tile += 1;
        }
        layout
    };

    thread_local! {
        /// How many [`Tiles`] the thread holds.
        static HELD: Cell<usize> = const { Cell::new(0) };
    }

    /// This thread's tiles, eight of 16 rows of 64 bytes, laid out. They are given back when the last one of a thread is dropped.
    pub struct Tiles(PhantomData<*const ()>);

    impl Tiles {
        /// Takes and lays out the thread's tiles.
        ///
        /// # Panics
        /// Where [`usable`] is an error.
        pub fn take() -> Self {
            assert_eq!(usable(), Ok(()), "the matrix unit");
            if HELD.replace(HELD.get() + 1) == 0 {
                // SAFETY: the instruction is there and permitted; it reads the 64 bytes of the layout
                unsafe { asm!("ldtilecfg [{}]", in(reg) &LAYOUT, options(readonly, nostack, preserves_flags)) };
            }
            Self(PhantomData)
        }

        /// As [`crate::unit::multiply`], on the tiles: four of sums, two of each operand.
        ///
        /// # Panics
        /// Where the operands are not blocks of as many steps, at least one, and the sums not one block.
        pub fn multiply(&self, a: &[u32], b: &[u32], sums: &mut [f32], fresh: bool) {
            let steps = a.len() / STEP;
            assert!(steps > 0 && b.len() == a.len() && a.len() == steps * STEP && sums.len() == SIDE * SIDE);
            // SAFETY: `self` shows that the tiles are there and laid out, and nothing is left in them from one call to the next. Step i reads 2 KiB of
            // `a` and of `b` from byte 2048 i on, as two tiles each whose rows follow each other; the sums are read and written as four tiles with rows
            // of 128 bytes, 4 KiB in all. The assertion bounds all of it.
            unsafe {
                asm!(
                    "test {fresh:e}, {fresh:e}",
                    "jnz 2f",
                    "tileloadd tmm0, [{c} + {wide}]",
                    "tileloadd tmm1, [{c} + {wide} + 64]",
                    "tileloadd tmm2, [{c} + {wide} + 2048]",
                    "tileloadd tmm3, [{c} + {wide} + 2112]",
                    "jmp 3f",
                    "2:",
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "3:",
                    "tileloadd tmm6, [{b} + {line}]",
                    "tileloadd tmm4, [{a} + {line}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {line} + 1024]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tileloadd tmm5, [{a} + {line} + 1024]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "add {a}, 2048",
                    "add {b}, 2048",
                    "dec {steps}",
                    "jnz 3b",
                    "tilestored [{c} + {wide}], tmm0",
                    "tilestored [{c} + {wide} + 64], tmm1",
                    "tilestored [{c} + {wide} + 2048], tmm2",
                    "tilestored [{c} + {wide} + 2112], tmm3",
                    fresh = in(reg) u32::from(fresh),
                    c = in(reg) sums.as_mut_ptr(),
                    a = inout(reg) a.as_ptr() => _,
                    b = inout(reg) b.as_ptr() => _,
                    steps = inout(reg) steps => _,
                    line = in(reg) 64usize,
                    wide = in(reg) 128usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    }

    impl Drop for Tiles {
        fn drop(&mut self) {
            if HELD.replace(HELD.get() - 1) == 1 {
                // SAFETY: the tiles were laid out by `take`, on this thread, since the type is not `Send`
                unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
            }
        }
    }
}

/// Whether this process may use AMX: never on this system.
///
/// # Errors
/// Why it may not.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub fn usable() -> Result<(), &'static str> {
    Err("not in this processor")
}

/// Tiles that cannot be had.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub enum Tiles {}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
impl Tiles {
    /// There are none.
    ///
    /// # Panics
    /// Always.
    pub fn take() -> Self {
        panic!("the matrix unit: not in this processor")
    }

    /// Never called.
    pub fn multiply(&self, _: &[u32], _: &[u32], _: &mut [f32], _: bool) {
        match *self {}
    }
}
