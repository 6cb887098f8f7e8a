package identity

import (
	"fmt"

	"github.com/lifeboat-dev/lifeboat/restore/api/v1alpha1"
)

// RestoreFrom is the value of AnnotationRestoreFrom: the Checkpoint's name, a slash, the generation's number.
func RestoreFrom(checkpoint string, gen *v1alpha1.GenerationReference) string {
	return fmt.Sprintf("%s/%d", checkpoint, gen.Number)
}
