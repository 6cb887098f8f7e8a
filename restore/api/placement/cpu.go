package placement

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// features are the instructions of an architecture that programs look for when they start and then rely on, under the
// kernel's names for them (/proc/cpuinfo). What only makes things faster (erms), what only the kernel uses, and what
// every machine of the architecture has are no part of it: they would keep pods from nodes that can run them. A feature
// is the bit of its place in a set, so names are only ever added, at the end; a set has at most 252 bits (a label's
// value holds 63 hexadecimal digits).
var features = map[string][]string{
	"amd64": {
		"pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm", "movbe", "abm", "bmi1", "bmi2",
		"xsave", "xsaveopt", "xsavec", "xgetbv1", "avx", "f16c", "fma", "avx2",
		"aes", "pclmulqdq", "vaes", "vpclmulqdq", "gfni", "sha_ni", "sha512", "sm3", "sm4", "adx", "rdrand", "rdseed",
		"rdtscp", "rdpid", "fsgsbase", "ospke", "user_shstk", "hle", "rtm", "tsxldtrk",
		"clflushopt", "clwb", "cldemote", "clzero", "movdiri", "movdir64b", "serialize", "waitpkg", "enqcmd", "cmpccxadd",
		"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl", "avx512ifma", "avx512vbmi", "avx512_vbmi2",
		"avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq", "avx512_bf16", "avx512_fp16", "avx512_vp2intersect",
		"avx512er", "avx512pf", "avx_vnni", "avx_ifma", "avx_vnni_int8", "avx_vnni_int16", "avx_ne_convert",
		"amx_tile", "amx_int8", "amx_bf16", "amx_fp16", "amx_complex", "sse4a", "xop", "fma4", "tbm", "rdpru", "mwaitx",
	},
	"arm64": {
		"aes", "pmull", "sha1", "sha2", "crc32", "atomics", "fphp", "asimdhp", "asimdrdm", "jscvt", "fcma", "lrcpc", "dcpop",
		"sha3", "sm3", "sm4", "asimddp", "sha512", "asimdfhm", "dit", "uscat", "ilrcpc", "flagm", "ssbs", "sb", "paca", "pacg",
		"dcpodp", "flagm2", "frint", "bf16", "i8mm", "dgh", "rng", "bti", "mte", "ecv", "afp", "rpres", "wfxt", "mops", "hbc",
		"cssc", "gcs", "sve", "sve2", "sveaes", "svepmull", "svebitperm", "svesha3", "svesm4", "svei8mm", "svef32mm",
		"svef64mm", "svebf16", "sme", "sme2",
	},
}

// levels are sets of features, each with all of those before it, that stand for a generation of processors: on amd64 the
// levels 2 to 4 of the x86-64 psABI. Level 1 is every processor of the architecture.
var levels = map[string][][]string{
	"amd64": {
		{"pni", "ssse3", "sse4_1", "sse4_2", "popcnt", "cx16", "lahf_lm"},
		{"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
		{"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
	},
	"arm64": {{"atomics", "crc32"}, {"sve"}, {"sve2"}},
}

// CPU reads level and features out of the text of /proc/cpuinfo: what all processors of the machine have. An
// architecture that is not known has level 1 and no features.
func CPU(architecture, cpuinfo string) (level int, set string) {
	var common []string
	first := true
	for line := range strings.Lines(cpuinfo) {
		name, value, _ := strings.Cut(line, ":")
		if name = strings.TrimSpace(name); name != "flags" && name != "Features" {
			continue
		}
		have := strings.Fields(value)
		if first {
			common, first = have, false
			continue
		}
		common = slices.DeleteFunc(common, func(f string) bool { return !slices.Contains(have, f) })
	}
	level = 1
	for _, needs := range levels[architecture] {
		if slices.ContainsFunc(needs, func(f string) bool { return !slices.Contains(common, f) }) {
			break
		}
		level++
	}
	bits := new(big.Int)
	for i, name := range features[architecture] {
		if slices.Contains(common, name) {
			bits.SetBit(bits, i, 1)
		}
	}
	return level, bits.Text(16)
}

// lacking names what of need is not in have. A set that is none counts as one that lacks everything.
func lacking(architecture, need, have string) []string {
	wanted, ok := new(big.Int).SetString(need, 16)
	if !ok {
		return []string{fmt.Sprintf("feature set %q", need)}
	}
	there, ok := new(big.Int).SetString(have, 16)
	if !ok {
		there = new(big.Int)
	}
	missing := new(big.Int).AndNot(wanted, there)
	var names []string
	for i := range missing.BitLen() {
		if missing.Bit(i) == 0 {
			continue
		}
		if known := features[architecture]; i < len(known) {
			names = append(names, known[i])
		} else {
			names = append(names, fmt.Sprintf("feature %d of a newer Lifeboat", i))
		}
	}
	return names
}
