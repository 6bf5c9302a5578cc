//! The block cipher against the standard's own examples, and against an implementation that we did
//! not write.

use std::format;

use ::aes::Aes128;
use ::aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use proptest::prelude::*;

use super::*;

#[test]
fn examples_of_the_standards() {
    let sp_800_38a = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c;
    let table: [(&str, u128, u128, u128); 6] = [
        (
            "FIPS 197, appendix B",
            0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c,
            0x3243_f6a8_885a_308d_3131_98a2_e037_0734,
            0x3925_841d_02dc_09fb_dc11_8597_196a_0b32,
        ),
        (
            "FIPS 197, appendix C.1",
            0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f,
            0x0011_2233_4455_6677_8899_aabb_ccdd_eeff,
            0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a,
        ),
        (
            "SP 800-38A, F.1.1, block 1",
            sp_800_38a,
            0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172a,
            0x3ad7_7bb4_0d7a_3660_a89e_caf3_2466_ef97,
        ),
        (
            "SP 800-38A, F.1.1, block 2",
            sp_800_38a,
            0xae2d_8a57_1e03_ac9c_9eb7_6fac_45af_8e51,
            0xf5d3_d585_03b9_699d_e785_895a_96fd_baaf,
        ),
        (
            "SP 800-38A, F.1.1, block 3",
            sp_800_38a,
            0x30c8_1c46_a35c_e411_e5fb_c119_1a0a_52ef,
            0x43b1_cd7f_598e_ce23_881b_00e3_ed03_0688,
        ),
        (
            "SP 800-38A, F.1.1, block 4",
            sp_800_38a,
            0xf69f_2445_df4f_9b17_ad2b_417b_e66c_3710,
            0x7b0c_785e_27e8_ad3f_8223_2071_0472_5dd4,
        ),
    ];
    for (what, key, clear, hidden) in table {
        let key = AesKey::new(key.to_be_bytes());
        assert_eq!(key.encrypt(clear.to_be_bytes()), hidden.to_be_bytes(), "{what}");
        assert_eq!(key.decrypt(&AES_TABLES, hidden.to_be_bytes()), clear.to_be_bytes(), "{what}");
    }
}

#[test]
fn the_key_schedule_of_fips_197_appendix_a() {
    let key = AesKey::new(0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes());
    assert_eq!(key.encrypt[1], [0xa0fa_fe17, 0x8854_2cb1, 0x23a3_3939, 0x2a6c_7605]);
    assert_eq!(key.encrypt[10], [0xd014_f9a8, 0xc9ee_2589, 0xe13f_0cc8, 0xb663_0ca6]);
    assert_eq!(key.decrypt[0], key.encrypt[10], "the inverse begins at the end");
    assert_eq!(key.decrypt[10], key.encrypt[0], "and ends at the beginning");
}

#[test]
fn the_substitution_is_a_permutation_and_has_its_inverse() {
    assert_eq!(SBOX[0x53], 0xed, "the example of FIPS 197, section 5.1.1");
    for byte in 0..=255_u8 {
        assert_eq!(AES_TABLES.inverse_sbox[usize::from(SBOX[usize::from(byte)])], byte);
    }
}

#[test]
fn a_key_does_not_show_itself() {
    let key = AesKey::new([0x5a; 16]);
    assert_eq!(format!("{key:?}"), "AesKey { .. }");
    assert_eq!(format!("{:?}", crate::cid::Config::Encrypted(key)), "Encrypted(AesKey { .. })");
}

proptest! {
    #[test]
    fn any_block_under_any_key_is_what_rustcrypto_says(key: [u8; 16], block: [u8; 16]) {
        let (ours, theirs) = (AesKey::new(key), Aes128::new(&key.into()));
        let mut expected = block.into();
        theirs.encrypt_block(&mut expected);
        prop_assert_eq!(ours.encrypt(block), <[u8; 16]>::from(expected));
        let mut expected = block.into();
        theirs.decrypt_block(&mut expected);
        prop_assert_eq!(ours.decrypt(&AES_TABLES, block), <[u8; 16]>::from(expected));
    }
}
