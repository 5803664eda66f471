package event

import "strings"

// PropertyPath splits the dotted path of a property, such as
// `content.m\.relates_to.rel_type`, into the names along it. `\.` is a dot and
// `\\` a backslash inside a name; any other backslash stands for itself.
// spec: appendices#dot-separated-property-paths
func PropertyPath(path string) []string {
	if strings.IndexByte(path, '\\') < 0 {
		return strings.Split(path, ".")
	}
	var names []string
	var name strings.Builder
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '.':
			names = append(names, name.String())
			name.Reset()
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			name.WriteByte(path[i])
		default:
			name.WriteByte(c)
		}
	}
	return append(names, name.String())
}
