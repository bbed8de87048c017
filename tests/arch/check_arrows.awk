# Holds every #include of src/ against arrows.txt.
#   awk -f check_arrows.awk arrows.txt file...   (files relative to src/, run inside src/)
# Prints one line per include that no arrow allows; exit status 1 when there is one.

function fail(message) {
  printf "%s:%d: %s\n", FILENAME, FNR, message
  failed = 1
}

function folder_of(path) {
  return path ~ /\// ? substr(path, 1, match(path, /\/[^\/]*$/) - 1) : ""
}

# Does a line of `file`, its folder or a folder above allow `target`?
function allowed(file, target,    from) {
  if (folder_of(file) == folder_of(target)) return 1
  for (from = file; from != ""; from = folder_of(from)) {
    if ((from, "*") in arrow || (from, target) in arrow || (from, folder_of(target)) in arrow) return 1
  }
  return 0
}

function check_library(file, header,    prefix, from, ok) {
  for (prefix in library) {
    if (index(header, prefix) != 1) continue
    ok = 0
    for (from = file; from != ""; from = folder_of(from)) if ((from, "<" prefix) in arrow) ok = 1
    if (!ok) fail("<" header "> is not for this folder: no arrow to <" prefix)
  }
}

FNR == 1 && FILENAME != ARGV[1] {
  files++
  top = folder_of(FILENAME)
  if (!(top in known)) fail("the folder " top " has no line in arrows.txt")
}

FILENAME == ARGV[1] {  # the arrows
  sub(/#.*/, "")
  if ($0 !~ /[^ \t]/) next
  if ($1 !~ /:$/) { fail("expected \"from: to ...\", found \"" $0 "\""); next }
  from = substr($1, 1, length($1) - 1)
  known[from] = 1
  for (i = 2; i <= NF; i++) {
    arrow[from, $i] = 1
    if ($i ~ /^</) library[substr($i, 2)] = 1
  }
  next
}

/^[ \t]*#[ \t]*(include|import)/ {
  target = $0
  sub(/^[ \t]*#[ \t]*(include|import)(_next)?[ \t]*/, "", target)
  if (target ~ /^"/) {
    target = substr(target, 2)
    sub(/".*/, "", target)
    if (target !~ /\// || target ~ /\.\./) fail("\"" target "\": project headers are included by their path from src/")
    else if (!allowed(FILENAME, target)) fail("no arrow allows \"" target "\"")
  } else if (target ~ /^</) {
    target = substr(target, 2)
    sub(/>.*/, "", target)
    top = target
    sub(/\/.*/, "", top)
    if (top in known && target ~ /\//) fail("<" target ">: project headers are included with quotes")
    check_library(FILENAME, target)
  } else {
    fail("an include that is not written out: " target)
  }
}

END {
  if (files == 0) { print "no source files found"; failed = 1 }
  exit failed
}
