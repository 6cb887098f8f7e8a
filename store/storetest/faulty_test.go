package storetest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lifeboat-dev/lifeboat/store"
	"github.com/lifeboat-dev/lifeboat/store/mem"
	"github.com/lifeboat-dev/lifeboat/store/storetest"
)

func TestFaultyWithoutFaultsKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Bucket { return storetest.NewFaulty(t, mem.New()) })
}

func TestEffects(t *testing.T) {
	cases := []struct {
		name   string
		fault  storetest.Fault
		landed bool
		after  bool // a later call works
	}{
		{"fail", storetest.Fault{Op: storetest.OpPut, At: 1, Effect: storetest.Fail}, false, true},
		{"lose", storetest.Fault{Op: storetest.OpPut, At: 1, Effect: storetest.Lose}, true, true},
		{"fail every time", storetest.Fault{Key: "ke", Effect: storetest.Fail}, false, false},
		{"die before", storetest.Fault{At: 1, Effect: storetest.Fail, Down: true}, false, false},
		{"die after", storetest.Fault{At: 1, Effect: storetest.Lose, Down: true}, true, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			beneath := mem.New()
			bucket := storetest.NewFaulty(t, beneath, c.fault)
			_, err := bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
			require.ErrorIs(t, err, storetest.ErrInjected)
			_, err = beneath.Stat(t.Context(), "key")
			require.Equal(t, c.landed, err == nil)
			require.Equal(t, c.after, bucket.Delete(t.Context(), "key") == nil)
			require.Len(t, bucket.Calls(), 2)
		})
	}
}

func TestHold(t *testing.T) {
	gate := storetest.NewGate()
	bucket := storetest.NewFaulty(t, mem.New(), storetest.Fault{Op: storetest.OpPut, At: 1, Effect: storetest.Hold, Gate: gate})
	done := make(chan error)
	go func() {
		_, err := bucket.Put(t.Context(), "key", []byte("x"), store.Condition{})
		done <- err
	}()
	<-gate.Reached()
	_, err := bucket.Stat(t.Context(), "key")
	require.ErrorIs(t, err, store.ErrNotFound)
	gate.Open()
	require.NoError(t, <-done)
}
