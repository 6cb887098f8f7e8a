// Package store keeps generations of targets in a bucket: complete, encrypted, committed by one conditional put, and
// checked on every read. docs/store.md is its byte-level format.
//
// Invariants:
//
//   - A generation is its manifest and the packs it names, its own or older ones. Packs are written first, the manifest
//     then, HEAD last; what is in no chain of manifests from HEAD does not exist for a reader.
//   - HEAD is changed by conditional puts alone. Its epoch only rises, its number rises by one.
//   - What HEAD has named once is never changed. A manifest that no HEAD can name any more (its writer died, or was
//     fenced) may be replaced by the next writer of that number, see Store.Begin.
//   - No byte leaves a Reader that has not passed authenticated decryption under the target's own key, bound to its place.
//   - A block is left out only where the generation before has one with the same keyed hash at the same place.
//   - What is deleted is needed by no generation that stays and belongs to no writer that may still commit, see Store.Reap.
//
// The way of a block: Writer.AddPages or Add (writer.go) compares, packer.go compresses and seals, commit.go makes durable;
// reader.go and fetch.go bring it back.
//
// The package imports the standard library, klauspost/compress, xxh3 and ulid. Each kind of bucket is a package of its own.
package store
