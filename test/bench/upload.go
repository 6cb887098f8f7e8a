package bench

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/open"
	"github.com/lifeboat-dev/lifeboat/test/bed"
	"github.com/lifeboat-dev/lifeboat/test/bench/images"
	"github.com/lifeboat-dev/lifeboat/test/bench/rows"
)

// rawAtOnce is how many plain PUTs are under way at a time.
const rawAtOnce = 4

const (
	uploading = "upload of a whole generation"
	rawPut    = "raw minio-go PUTs of as many bytes"
	wide      = ", loopback"
	narrow    = ", " + narrowRate + " by tc"
)

// measureUpload writes the process's whole dump to an S3 server, and puts as many bytes plainly, in objects of a pack's
// size; over a loopback as it is, and over one that tc has made the limit.
func (l *storeLab) measureUpload(ctx context.Context, o Options, set *images.Set) (err error) {
	program, err := bed.Versitygw(ctx, o.Progress)
	if err != nil {
		return err
	}
	if err := setCredentials(); err != nil {
		return err
	}
	server, err := startServer(ctx, program, filepath.Join(l.folder, "s3"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if err := l.uploadRounds(ctx, server, set, wide); err != nil {
		return err
	}
	if err := server.narrow(ctx); err != nil {
		return err
	}
	return l.uploadRounds(ctx, server, set, narrow)
}

func (l *storeLab) uploadRounds(ctx context.Context, server *s3Server, set *images.Set, network string) error {
	for round := range rounds {
		l.say("upload: round %d of %d%s", round+1, rounds, network)
		bucket, err := open.Bucket(ctx, server.url(), open.WithTransport(server.transport))
		if err != nil {
			return err
		}
		c, err := newChain(bucket, store.CodecZstd)
		if err != nil {
			return err
		}
		asked, err := c.counting(func() error {
			return l.Take(uploading+network, func() error { return c.write(ctx, set) })
		})
		if err != nil {
			return err
		}
		l.Add("bytes"+uploading+network, asked.putBytes)
		if err := server.clear(ctx); err != nil {
			return err
		}
		body := make([]byte, packSize)
		_, _ = rand.Read(body) // never fails
		err = l.Take(rawPut+network, func() error { return server.putRaw(ctx, body, int64(asked.putBytes)) })
		if err != nil {
			return err
		}
		if err := server.clear(ctx); err != nil {
			return err
		}
	}
	return nil
}

// putRaw puts size bytes in objects of body's size, the last one shorter.
func (s *s3Server) putRaw(ctx context.Context, body []byte, size int64) error {
	putting, ctx := errgroup.WithContext(ctx)
	putting.SetLimit(rawAtOnce)
	for n := 0; size > 0; n++ {
		part := body[:min(size, int64(len(body)))]
		size -= int64(len(part))
		putting.Go(func() error {
			_, err := s.client.PutObject(ctx, serverBucket, fmt.Sprintf("raw/%d", n), bytes.NewReader(part), int64(len(part)),
				minio.PutObjectOptions{})
			return err
		})
	}
	return putting.Wait()
}

// clear removes all objects, so that the disk does not fill up.
func (s *s3Server) clear(ctx context.Context) error {
	all := s.client.ListObjects(ctx, serverBucket, minio.ListObjectsOptions{Recursive: true})
	for fault := range s.client.RemoveObjects(ctx, serverBucket, all, minio.RemoveObjectsOptions{}) {
		return fmt.Errorf("remove %s: %w", fault.ObjectName, fault.Err)
	}
	return ctx.Err()
}

func (l *storeLab) uploadRows() []rows.Row {
	rate := func(name, network string) float64 {
		return l.Median("bytes"+uploading+network) / 1e6 / l.Median(rows.Wall(name+network))
	}
	row := func(network string) rows.Row {
		return rows.Row{Name: uploading + network, Value: rate(uploading, network), Unit: "MB/s stored"}.
			Versus(rawPut, rate(rawPut, network))
	}
	return []rows.Row{row(narrow).Wants(rows.Target{AtLeast: true, Bound: 0.9}), row(wide),
		{Name: rows.CPU(uploading + wide), Value: l.Median(rows.CPU(uploading+wide)) / (l.raw / gib), Unit: "CPU s/GiB"}}
}
