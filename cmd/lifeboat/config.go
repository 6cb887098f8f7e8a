package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	"github.com/spf13/pflag"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/open"
)

// config is what flags and environment say of every command. Flags win over LIFEBOAT_* variables, those over the defaults.
type config struct {
	bucket   string
	keyFile  string
	output   string
	quiet    bool
	progress bool
}

// bind declares the flags.
func (c *config) bind(flags *pflag.FlagSet) {
	flags.StringVar(&c.bucket, "bucket", "", "s3://bucket/prefix?region=…, file:///folder (LIFEBOAT_BUCKET)")
	flags.StringVar(&c.keyFile, "key-file", "",
		"file with the master key, or several, a line each (LIFEBOAT_KEY_FILE)")
	flags.StringVarP(&c.output, "output", "o", "table", "table, or json with bytes and times as they are (LIFEBOAT_OUTPUT)")
	flags.BoolVar(&c.quiet, "quiet", false, "of what was done print errors and faults alone (LIFEBOAT_QUIET)")
	flags.BoolVar(&c.progress, "progress", false, "show progress although stderr is no terminal (LIFEBOAT_PROGRESS)")
}

// key says what a command does without a master key.
type key int

const (
	keyNeeded key = iota
	keyOptional
	keyUnused
)

const keyHint = "no encryption key: only ls and rm need none, and du tells less without: give --key-file, or set " +
	"LIFEBOAT_KEY_FILE. The key is in the Secret lifeboat-key: kubectl -n lifeboat-system get secret lifeboat-key " +
	"-o jsonpath='{.data.key}' | base64 -d > key"

// Validate returns all faults joined.
func (c *config) Validate(need key) error {
	var faults []error
	if c.bucket == "" {
		faults = append(faults, errors.New("--bucket is empty; set it, or LIFEBOAT_BUCKET"))
	}
	if c.output != "table" && c.output != "json" {
		faults = append(faults, fmt.Errorf("--output: %q is neither table nor json", c.output))
	}
	if c.keyFile == "" && need == keyNeeded {
		faults = append(faults, errors.New(keyHint))
	}
	return errors.Join(faults...)
}

// open makes the Store.
func (c *config) open(ctx context.Context, need key) (*store.Store, error) {
	var keys store.Keyring
	if c.keyFile != "" && need != keyUnused {
		text, err := os.ReadFile(c.keyFile)
		if err != nil {
			return nil, fmt.Errorf("read the encryption key: %w", err)
		}
		if keys, err = store.ParseKeyring(text); err != nil {
			return nil, fmt.Errorf("read the encryption key of %s: %w", c.keyFile, err)
		}
	}
	// The folder would be made where it is missing, which is not what somebody wants who looks for something.
	if u, err := url.Parse(c.bucket); err == nil && u.Scheme == "file" && (u.Host == "" || u.Host == "localhost") {
		if _, err := os.Stat(u.Path); err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", c.bucket, err)
		}
	}
	bucket, err := open.Bucket(ctx, c.bucket)
	if err != nil {
		return nil, err
	}
	return store.New(bucket, keys), nil
}
