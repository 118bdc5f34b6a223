#!/bin/sh
# Writes ../testdata/murmur2.tsv with the Java client's own functions. Needs a JDK 17 and Maven.
set -eu
cd "$(dirname "$0")"
lib=$(mktemp -d)
trap 'rm -rf "$lib"' EXIT
mvn -q -B dependency:copy-dependencies -DoutputDirectory="$lib"
java -cp "$lib/*" -Dfile.encoding=UTF-8 Golden.java > ../testdata/murmur2.tsv
