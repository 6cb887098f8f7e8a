package retry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/retry"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

var errBusy = errors.New("busy")

// flaky fails every second request. Half of the failures are lost replies, where the request allows that.
type flaky struct {
	store.Bucket
	requests atomic.Int64
}

func (f *flaky) do(repeatable bool, request func()) error {
	n := f.requests.Add(1)
	if n%2 == 0 {
		request()
		return nil
	}
	if repeatable && n%4 == 1 {
		request()
	}
	return &store.TemporaryError{Err: errBusy}
}

// Put implements store.Bucket.
func (f *flaky) Put(ctx context.Context, key string, body []byte, cond store.Condition) (info store.Info, err error) {
	busy := f.do(cond == store.Condition{}, func() { info, err = f.Bucket.Put(ctx, key, body, cond) })
	return info, errors.Join(busy, err)
}

// Get implements store.Bucket.
func (f *flaky) Get(ctx context.Context, key string, offset, length int64) (stream io.ReadCloser, err error) {
	if busy := f.do(false, func() { stream, err = f.Bucket.Get(ctx, key, offset, length) }); busy != nil {
		return nil, busy
	}
	return stream, err
}

// Stat implements store.Bucket.
func (f *flaky) Stat(ctx context.Context, key string) (info store.Info, err error) {
	busy := f.do(false, func() { info, err = f.Bucket.Stat(ctx, key) })
	return info, errors.Join(busy, err)
}

// List implements store.Bucket. It breaks off after 700 objects.
func (f *flaky) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		const part = 700
		n, busy := 0, f.do(false, func() {})
		for info, err := range f.Bucket.List(ctx, prefix) {
			if n++; busy != nil && n > part {
				break
			}
			if !yield(info, err) {
				return
			}
		}
		if busy != nil {
			yield(store.Info{}, busy)
		}
	}
}

// Delete implements store.Bucket.
func (f *flaky) Delete(ctx context.Context, key string) (err error) {
	busy := f.do(true, func() { err = f.Bucket.Delete(ctx, key) })
	return errors.Join(busy, err)
}

func TestContract(t *testing.T) {
	brief := retry.Policy{Tries: 100, Pause: time.Microsecond}
	storetest.Run(t, func(*testing.T) store.Bucket { return retry.New(&flaky{Bucket: mem.New()}, brief) })
}

// requests are all requests that a bucket takes.
var requests = []struct {
	op   storetest.Op
	make func(context.Context, store.Bucket) error
}{
	{storetest.OpPut, func(ctx context.Context, b store.Bucket) error {
		_, err := b.Put(ctx, "key", []byte("new"), store.Condition{})
		return err
	}},
	{storetest.OpGet, func(ctx context.Context, b store.Bucket) error {
		stream, err := b.Get(ctx, "key", 0, -1)
		if err == nil {
			err = stream.Close()
		}
		return err
	}},
	{storetest.OpStat, func(ctx context.Context, b store.Bucket) error {
		_, err := b.Stat(ctx, "key")
		return err
	}},
	{storetest.OpList, func(ctx context.Context, b store.Bucket) error {
		for _, err := range b.List(ctx, "") {
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{storetest.OpDelete, func(ctx context.Context, b store.Bucket) error { return b.Delete(ctx, "key") }},
}

func busy(after time.Duration) error { return &store.TemporaryError{After: after, Err: errBusy} }

func TestWhatIsTriedAgain(t *testing.T) {
	cases := []struct {
		name  string
		err   error
		again bool
	}{
		{"busy", busy(0), true},
		{"not found", store.ErrNotFound, false},
		{"precondition", store.ErrPrecondition, false},
		{"invalid", store.ErrInvalid, false},
		{"denied, and all that is not said to be temporary", errors.New("denied"), false},
		{"canceled", context.Canceled, false},
	}
	for _, c := range cases {
		for _, request := range requests {
			t.Run(c.name+"/"+string(request.op), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					beneath := mem.New()
					_, err := beneath.Put(t.Context(), "key", []byte("old"), store.Condition{})
					require.NoError(t, err)
					faulty := storetest.NewFaulty(t, beneath, storetest.Fault{Op: request.op, At: 1, Err: c.err})
					err = request.make(t.Context(), retry.New(faulty, retry.Policy{}))
					if c.again {
						require.NoError(t, err)
						require.Len(t, faulty.Calls(), 2)
						return
					}
					require.ErrorIs(t, err, c.err)
					require.Len(t, faulty.Calls(), 1)
				})
			})
		}
	}
}

func TestBounds(t *testing.T) {
	policy := retry.Policy{Tries: 4, Pause: time.Second, MaxPause: 3 * time.Second, MaxAfter: time.Minute}
	cases := []struct {
		name      string
		after     time.Duration
		deadline  time.Duration
		tries     int
		least     time.Duration
		most      time.Duration
		want      string
		exhausted bool // the deadline is why
	}{
		{"no more tries", 0, time.Hour, 4, 0, (1 + 2 + 3) * time.Second, "tried 4 times", false},
		{"the server's pause is kept", 20 * time.Second, time.Hour, 4, time.Minute, time.Minute, "tried 4 times", false},
		{"the server's pause would pass the deadline", 20 * time.Second, 50 * time.Second, 3, 40 * time.Second, 40 * time.Second, "no time left", true},
		{"the very first pause would", 20 * time.Second, 20 * time.Second, 1, 0, 0, "no time left", true},
		{"the server asks for too much", 2 * time.Minute, time.Hour, 1, 0, 0, "left alone for 2m0s", false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
				defer cancel()
				faulty := storetest.NewFaulty(t, mem.New(), storetest.Fault{Err: busy(c.after)})
				_, err := retry.New(faulty, policy).Stat(ctx, "key")
				require.ErrorIs(t, err, errBusy)
				require.ErrorContains(t, err, c.want)
				require.Equal(t, c.exhausted, errors.Is(err, context.DeadlineExceeded))
				require.Len(t, faulty.Calls(), c.tries)
				require.GreaterOrEqual(t, time.Since(began), c.least)
				require.LessOrEqual(t, time.Since(began), c.most)
			})
		})
	}
}

func TestPatientGoesOnAsLongAsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Hour)
		defer cancel()
		faulty := storetest.NewFaulty(t, mem.New(), storetest.Fault{Err: busy(0)})
		_, err := retry.New(faulty, retry.Patient).Stat(ctx, "key")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Greater(t, time.Since(began), 6*time.Hour-3*time.Second)
	})
}

func TestCancelEndsThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		faulty := storetest.NewFaulty(t, mem.New(), storetest.Fault{Err: busy(time.Minute)})
		done := make(chan error)
		began := time.Now()
		go func() { done <- retry.New(faulty, retry.Policy{}).Delete(ctx, "key") }()
		synctest.Wait()
		cancel()
		err := <-done
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorIs(t, err, errBusy)
		require.Zero(t, time.Since(began))
		require.Len(t, faulty.Calls(), 1)
	})
}

// Pauses are spread over the whole of the bound, and the bound grows.
func TestJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := retry.Policy{Tries: 2, Pause: time.Second, MaxPause: time.Second}
		seen := map[time.Duration]bool{}
		for range 200 {
			faulty := storetest.NewFaulty(t, mem.New(), storetest.Fault{Err: busy(0)})
			began := time.Now()
			_, err := retry.New(faulty, policy).Stat(t.Context(), "key")
			require.ErrorIs(t, err, errBusy)
			seen[min(time.Since(began)/(policy.Pause/4), 3)] = true
		}
		require.Len(t, seen, 4, "a quarter of the bound was never drawn")
	})
}

// A conditional put whose reply was lost meets its own object. Its caller must be told, not shown an object that may be
// another's.
func TestLostReplyOfConditionalPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		beneath := mem.New()
		faulty := storetest.NewFaulty(t, beneath, storetest.Fault{Op: storetest.OpPut, At: 1, Effect: storetest.Lose, Err: busy(0)})
		_, err := retry.New(faulty, retry.Policy{}).Put(t.Context(), "key", []byte("x"), store.Condition{IfAbsent: true})
		require.ErrorIs(t, err, store.ErrPrecondition)
		_, err = beneath.Stat(t.Context(), "key")
		require.NoError(t, err)
	})
}

func TestListingGoesOnWhereItBroke(t *testing.T) {
	beneath := mem.New()
	want := make([]string, 1500)
	for i := range want {
		want[i] = fmt.Sprintf("key-%04d", i)
		_, err := beneath.Put(t.Context(), want[i], nil, store.Condition{})
		require.NoError(t, err)
	}
	var got []string
	for info, err := range retry.New(&flaky{Bucket: beneath}, retry.Policy{Pause: time.Microsecond}).List(t.Context(), "") {
		require.NoError(t, err)
		got = append(got, info.Key)
	}
	require.Equal(t, want, got)
}
