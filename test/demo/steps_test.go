package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestReadOutput(t *testing.T) {
	out, err := ReadOutput(strings.NewReader(strings.Join([]string{
		"2026-11-20T10:12:01.123456789Z step=1 loss=2.335609 token=cafe weights=d3ab",
		"UserWarning: something of a library's",
		"step=2 loss=1.5 token=cafe weights=fa83",
		"",
		"2026-11-20T10:12:03Z done steps=2 accuracy=0.9222 token=cafe weights=fa83",
	}, "\n")))
	require.NoError(t, err)
	at := time.Date(2026, 11, 20, 10, 12, 1, 123456789, time.UTC)
	require.Equal(t, []Step{
		{Number: 1, Loss: 2.335609, Token: "cafe", Weights: "d3ab", At: at},
		{Number: 2, Loss: 1.5, Token: "cafe", Weights: "fa83"},
	}, out.Steps)
	require.Equal(t, &Done{Steps: 2, Accuracy: 0.9222, Token: "cafe", Weights: "fa83"}, out.Done)
	require.Equal(t, []string{"UserWarning: something of a library's"}, out.Other)
	require.Equal(t, 2, out.Last())
}

func TestReadOutputRefusesTornLines(t *testing.T) {
	for name, line := range map[string]string{
		"cut short":        "step=1 loss=2.3 tok",
		"two in one":       "step=1 loss=2.3 token=a weights=bstep=2 loss=1 token=a weights=c",
		"no number":        "step=x loss=2.3 token=a weights=b",
		"no loss":          "step=1 loss= token=a weights=b",
		"loss not a float": "step=1 loss=low token=a weights=b",
		"other order":      "step=1 token=a loss=2.3 weights=b",
		"done cut short":   "done steps=1",
		"done not a count": "done steps=all accuracy=1 token=a weights=b",
		"done not a share": "done steps=1 accuracy=high token=a weights=b",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadOutput(strings.NewReader(line + "\n"))
			require.ErrorContains(t, err, "read line")
		})
	}
}
